FROM busybox
RUN --mount=type=secret,id=a a
RUN --mount=type=secret,id=b,target=/x,required b
RUN --mount=type=secret,id=c,env=C c $C
RUN --mount=type=secret,id=d,env=D,target=/d d
RUN --mount=type=secret,target=/run/e,mode=0444,uid=3,gid=4 e
RUN --mount=type=secret,src=f,dst=/f,required=true f
