FROM busybox
RUN --mount=type=cache,target=/c a
