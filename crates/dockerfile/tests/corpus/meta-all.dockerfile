FROM busybox
MAINTAINER some one
ENV A=b
LABEL x=y "a b"='c'
EXPOSE 80 53/udp 1000-1002/tcp 8080:90
VOLUME /a /b
VOLUME ["/c d"]
USER u:g
WORKDIR /w
STOPSIGNAL SIGKILL
HEALTHCHECK --interval=5s --timeout=1m --start-period=2s --start-interval=1s --retries=3 CMD curl x
SHELL ["a","b"]
ENTRYPOINT ["e"]
CMD ["c"]
ONBUILD RUN o
