FROM busybox
COPY <<a.txt <<b.txt c /dir/
a
a.txt
b
b.txt
COPY --chmod=600 --chown=5:6 <<EOF /one
x
EOF
COPY --link <<-EOF /two
	tabs
	EOF
ADD <<EOF /three
y
EOF
