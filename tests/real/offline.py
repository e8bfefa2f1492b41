"""A process that finds none of the world's registries, on whatever machine it runs.

What a mirror does not give, a client asks for where it really is. With these names leading nowhere
it is told so at once, and no test depends on what the world holds.
"""

NAMES = (
    "docker.io", "index.docker.io", "registry-1.docker.io", "auth.docker.io", "ghcr.io", "quay.io",
    "denied.test", "gone.test", "plain.test", "refused.test", "silent.test", "unknown.test")
# Of the loopback, so that it refuses; not 127.0.0.1, on which a machine may have something.
NOWHERE = "127.77.0.1"
PROXIES = "HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy"
IN_OWN_WORLD = f'unset {PROXIES}; mount --bind "$0" /etc/hosts && exec "$@"'


def offline(folder):
    """What to put before a command; `folder` holds what it needs."""
    hosts = folder / "hosts"
    names = "".join(f"{NOWHERE} {name}\n" for name in NAMES)
    hosts.write_text(f"127.0.0.1 localhost\n{names}", encoding="utf-8")
    return ["unshare", "--mount", "sh", "-c", IN_OWN_WORLD, hosts]
