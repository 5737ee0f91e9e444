FROM busybox
ADD a.tar /
ADD a b /c/
ADD --unpack=false a.tar /x
ADD --unpack=true b.tar /y
ADD --link c /z
ADD --chown=1:2 --chmod=700 d /
ADD --exclude=*.x . /e/
