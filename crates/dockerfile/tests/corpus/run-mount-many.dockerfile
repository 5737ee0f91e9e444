FROM busybox AS s
FROM busybox
ENV T=/tt
ARG M=type
RUN --mount=type=cache,target=/b --mount=type=bind,from=s,target=/a --mount=type=secret,id=x --mount=type=tmpfs,target=/c --mount=type=cache,target=$T,id=$T a
