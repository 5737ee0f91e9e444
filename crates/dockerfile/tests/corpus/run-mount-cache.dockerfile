FROM busybox AS seed
FROM busybox
RUN --mount=type=cache,target=/c a
RUN --mount=type=cache,target=/c,id=i,sharing=locked b
RUN --mount=type=cache,target=/c,sharing=private,from=seed,source=/s c
RUN --mount=type=cache,target=/c,uid=1,gid=2,mode=0700 d
RUN --mount=type=cache,target=/c,ro e
RUN --mount=type=cache,target=rel/./c f
