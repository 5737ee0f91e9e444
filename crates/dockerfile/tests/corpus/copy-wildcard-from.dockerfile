FROM busybox AS a
FROM scratch
COPY --from=a /lib/*.so /x/
COPY --from=a /[ab]* /y/
