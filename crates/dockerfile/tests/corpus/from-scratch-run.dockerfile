FROM scratch
RUN ["/x"]
WORKDIR /w
