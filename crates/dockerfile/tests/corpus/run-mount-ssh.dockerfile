FROM busybox
RUN --mount=type=ssh a
RUN --mount=type=ssh,id=k,target=/s,required,mode=0666,uid=1,gid=2 b
RUN --mount=type=ssh --mount=type=ssh,id=o c
