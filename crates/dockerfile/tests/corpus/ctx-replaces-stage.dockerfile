FROM busybox AS a
RUN x
FROM scratch
COPY --from=a /x /
