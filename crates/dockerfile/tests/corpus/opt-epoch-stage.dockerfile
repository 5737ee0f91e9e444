FROM scratch AS src
ADD https://example.com/x.tar /
FROM busybox
WORKDIR /a
COPY --from=src / /b
