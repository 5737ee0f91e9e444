FROM busybox AS a
RUN a
WORKDIR /w
COPY x /
FROM a
RUN b
COPY --link y /
