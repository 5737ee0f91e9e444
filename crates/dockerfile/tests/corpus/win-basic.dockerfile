# escape=`
FROM --platform=windows/amd64 nano
WORKDIR C:\app
COPY a.txt C:\dir\
COPY b.txt .
ENV X=C:\y
CMD ["app.exe"]
ENTRYPOINT app.exe
