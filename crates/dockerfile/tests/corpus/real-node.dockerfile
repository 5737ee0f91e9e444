FROM node:22 AS deps
WORKDIR /app
COPY package*.json ./
RUN --mount=type=cache,target=/root/.npm npm ci
FROM deps AS build
COPY . .
RUN npm run build
FROM nginx:alpine
COPY --from=build --chown=nginx:nginx /app/dist /usr/share/nginx/html
COPY <<EOF /etc/nginx/conf.d/default.conf
server {
  listen 80;
  root /usr/share/nginx/html;
}
EOF
EXPOSE 80
HEALTHCHECK CMD wget -q localhost || exit 1
