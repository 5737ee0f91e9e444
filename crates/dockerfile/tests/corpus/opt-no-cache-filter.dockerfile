FROM busybox AS a
RUN a
FROM busybox AS b
RUN b
FROM scratch
COPY --from=a /a /
COPY --from=b /b /
