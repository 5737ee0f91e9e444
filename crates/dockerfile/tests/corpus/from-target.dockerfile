FROM busybox AS a
RUN a
FROM a AS B
RUN b
FROM b AS c
RUN c
