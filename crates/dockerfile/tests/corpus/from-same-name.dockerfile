FROM busybox AS a
RUN one
FROM alpine AS a
RUN two
FROM a
COPY --from=a /x /
