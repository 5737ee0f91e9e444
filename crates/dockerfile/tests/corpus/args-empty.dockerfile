ARG A=
FROM busybox
ARG A
ARG B
ENV C=$A D=${B:-d}
RUN x
