FROM busybox AS a
FROM scratch
COPY --from=a /x /y
COPY --from=alpine:3 /etc/x /
COPY --from=0 --chown=1 /z /
COPY --from=a --link /l /
COPY --from=a --parents /p/./q /
COPY --from=a . /all/
