FROM busybox
RUN echo a  b
RUN ["echo", "a b"]
SHELL ["/bin/bash", "-ec"]
RUN echo c
RUN ["/x"]
