FROM busybox
ARG V=x
COPY <<EOF /a
$V ${V} \$V "q" 'r'
EOF
COPY <<"EOF" /b
$V
EOF
RUN <<EOF
echo $V
EOF
