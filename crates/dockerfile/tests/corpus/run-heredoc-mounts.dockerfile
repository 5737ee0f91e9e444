FROM busybox
RUN --mount=type=cache,target=/c <<EOF
#!/bin/sh
ls
EOF
