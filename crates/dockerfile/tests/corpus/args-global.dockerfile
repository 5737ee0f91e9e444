ARG TAG=1.2
ARG BASE=busybox:$TAG
FROM $BASE AS one
ARG TAG
RUN echo $TAG
FROM one
ARG TAG=3
RUN echo $TAG
FROM busybox:${TAG}
RUN echo $TAG
COPY --from=one /a /b
