FROM busybox
RUN a
RUN --network=none --mount=type=cache,target=/c b
