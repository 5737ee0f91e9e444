FROM busybox AS a
ARG X=1
RUN a $X
FROM a AS b
RUN b $X
ENV X=2
FROM b AS c
ARG X=3
RUN c $X
