FROM busybox AS a
RUN a
FROM missing AS b
RUN b
FROM a
RUN c
