FROM busybox AS a
ARG X=1
RUN a $X
FROM a AS b
RUN b $X
ENV X=2
FROM b
ARG X=3
RUN c $X
FROM busybox
COPY --from=b /x /
RUN d $X
