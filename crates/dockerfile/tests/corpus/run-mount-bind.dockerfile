FROM busybox AS src
FROM busybox
RUN --mount=target=/ctx a
RUN --mount=type=bind,target=/ctx,rw b
RUN --mount=type=bind,from=src,source=/x,target=/y,readonly c
RUN --mount=type=bind,from=alpine,target=/z d
RUN --mount=source=sub/dir,target=rel e
RUN --mount=type=bind,src=a,dst=/b,rw=false f
