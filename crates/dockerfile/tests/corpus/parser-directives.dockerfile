# syntax=docker/dockerfile:1
# escape=`
FROM busybox
RUN echo a `
  b
ENV P=C:\x Q=`$V
