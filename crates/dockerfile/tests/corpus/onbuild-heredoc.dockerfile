FROM busybox AS a
ONBUILD RUN <<EOF
echo hi
EOF
ONBUILD COPY <<X /x
text
X
FROM a
RUN own
