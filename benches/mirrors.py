"""The mirrors that are compared, and the upstream before which each of them is put."""

import contextlib
import http.client
import json
import urllib.error
import urllib.request

import servers

KINDS = ("millpond", "distribution", "nginx")
REPOSITORY = "bench/image"
TAG = "latest"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
# How long all of them believe a tag, where that can be said. No measurement takes as long.
TAG_SECONDS = 60
ANSWER_SECONDS = 300

# Workers, buffers and the locks' times are not its defaults, which are for small pages: a lock that
# is given up after 5 s would have every client fetch the blob for itself, and with buffers of 4 or
# 8 KiB it is slower.
NGINX_CONFIG = """
daemon off;
user root;
worker_processes auto;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 75s;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=images:10m max_size=10g inactive=1d use_temp_path=off;
    upstream origin {{ server {origin}; keepalive 64; }}
    server {{
        listen {address} backlog=4096;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffers 16 32k;
        proxy_read_timeout 10m;
        proxy_cache images;
        proxy_cache_key $uri;
        proxy_cache_lock on;
        proxy_cache_lock_timeout 10m;
        proxy_cache_lock_age 10m;
        location / {{ proxy_pass http://origin; proxy_cache_valid 200 206 1d; {blobs} }}
        location ~ /manifests/ {{
            proxy_pass http://origin;
            proxy_cache_key $uri$http_accept;
            proxy_cache_valid 200 206 {tag_seconds}s;
        }}
    }}
}}
"""


class Upstream:
    """The registry that is mirrored, whose line has so many bytes per second; None: no limit."""

    def __init__(self, programs, scratch, image, bytes_per_second):
        self.server = servers.Server("upstream", scratch)
        command = [programs.load, "upstream", "--listen", self.server.address, *image]
        command += ["--rate", f"{bytes_per_second}B"] if bytes_per_second else []
        self.server.start(command, "/v2/")

    @property
    def url(self):
        return self.server.url

    def reset(self):
        request = urllib.request.Request(f"{self.url}/_count", method="DELETE")
        urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()

    def count(self):
        return json.loads(fetched(f"{self.url}/_count"))

    def image(self):
        """The manifest as it is here."""
        return json.loads(fetched(f"{self.url}/v2/{REPOSITORY}/manifests/{TAG}"))

    def stop(self):
        self.server.stop()


def fetched(url):
    with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as response:
        return response.read()


def head_blob(server, digest):
    """Asks whether a blob is there, which it is."""
    connection = http.client.HTTPConnection(servers.HOST, server.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 200:
        raise SystemExit(f"{server.name} answers HEAD of a blob with {status}")


def start(kind, programs, scratch, upstream):
    """A mirror that holds nothing yet. What it writes lies in its own folder, as its log does."""
    server = servers.Server(kind, scratch)
    program = programs.paths[kind]
    if kind == "nginx":
        path = server.folder / "nginx.conf"
        path.write_text(nginx_config(server, upstream))
        command = [program, "-p", server.folder, "-e", "stderr", "-c", path]
    else:
        path = server.folder / "config.yml"
        if kind == "millpond":
            config = servers.merged(millpond_config(server, upstream), programs.millpond_config)
            command = [program, "serve", "--config", path]
        else:
            config = distribution_config(server, upstream)
            command = [program, "serve", path]
        path.write_text(json.dumps(config))
    server.start(command, "/v2/")
    ask_in_vain(server)
    return server


def ask_in_vain(server):
    """A process answers its first requests more slowly than later ones. What is compared are empty
    caches, not processes that have just begun."""
    for kind in ("manifests", "blobs"):
        # Each says so in its way; distribution's proxy with status 500.
        with contextlib.suppress(urllib.error.HTTPError):
            fetched(f"{server.url}/v2/{REPOSITORY}/{kind}/sha256:{'0' * 64}")


def millpond_config(server, upstream):
    """As dockerd would use it, on an address where every name is the upstream's; so all mirrors are
    asked the same."""
    return {
        "api": {"listen": address_of(servers.free_port()), "admin": address_of(servers.free_port())},
        "storage": servers.Directory(server.folder).millpond(),
        "upstreams": [
            {
                "name": "origin",
                "url": [upstream.url],
                "plain_http": "allow",
                "listen": [address_of(server.port)],
                "tag_ttl": f"{TAG_SECONDS}s",
            }
        ],
        "log": {"level": "error", "access": False},
    }


def distribution_config(server, upstream):
    """It asks the upstream for a tag each time, whatever is set."""
    config = servers.distribution_config(server, servers.Directory(server.folder))
    return config | {"proxy": {"remoteurl": upstream.url}}


def nginx_config(server, upstream, blobs=""):
    """With what else is to be said of blobs."""
    return NGINX_CONFIG.format(
        folder=server.folder,
        address=server.address,
        origin=upstream.url.removeprefix("http://"),
        blobs=blobs,
        tag_seconds=TAG_SECONDS,
    )


def address_of(port):
    return f"{servers.HOST}:{port}"
