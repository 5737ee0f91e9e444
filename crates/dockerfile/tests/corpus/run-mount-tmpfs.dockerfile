FROM busybox
RUN --mount=type=tmpfs,target=/t a
RUN --mount=type=tmpfs,target=/t,size=1048576 b
RUN --mount=type=tmpfs,target=/t,size=1g c
