# escape=`
FROM --platform=windows/amd64 nano
ARG Dir=C:\x
ENV A=%Dir% B=${Dir}`y
WORKDIR $Dir
