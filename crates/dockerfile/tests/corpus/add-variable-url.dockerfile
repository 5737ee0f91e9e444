ARG V=1
FROM busybox
ARG V
ADD https://example.com/x-$V.tar /x/
ADD ${U:-local} /y
