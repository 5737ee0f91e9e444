FROM --platform=linux/arm64 busybox AS arm-arm64
RUN x
FROM --platform=linux/s390x busybox
COPY --from=arm-arm64 /a /b
