FROM busybox
WORKDIR /w
RUN --mount=type=bind,target=. a
RUN --mount=type=cache,target=x b
