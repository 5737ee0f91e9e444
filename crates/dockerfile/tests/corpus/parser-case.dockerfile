from busybox as BASE
run a
copy x /y
From base
Env a=b
Cmd x
