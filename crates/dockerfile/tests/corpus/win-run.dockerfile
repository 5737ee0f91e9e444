FROM nano
RUN dir
RUN ["cmd", "/c", "x"]
SHELL ["powershell", "-Command"]
RUN Get-Item
