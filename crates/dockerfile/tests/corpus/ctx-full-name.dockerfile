FROM example.com/x/y:z
RUN a
FROM docker.io/library/alpine:latest
RUN b
COPY --from=example.com/x/y:z /a /
