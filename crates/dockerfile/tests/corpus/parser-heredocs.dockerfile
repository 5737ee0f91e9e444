FROM busybox
RUN <<EOF
echo a
  echo $b
EOF
RUN <<-EOF
	echo tab
	EOF
RUN <<"EOF"
#!/bin/sh
echo "$x"
EOF
RUN <<A cat && <<B cat
a
A
b
B
RUN cat <<EOF > /x
$y
EOF
RUN 3<<EOF sh
x
EOF
