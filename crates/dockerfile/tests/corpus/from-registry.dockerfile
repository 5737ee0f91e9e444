FROM example.com:5000/a/b:c AS x
RUN x
FROM docker.io/library/busybox
COPY --from=x / /
