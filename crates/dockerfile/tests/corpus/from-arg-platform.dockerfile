ARG P=linux/arm64
FROM --platform=${P} busybox
RUN x
