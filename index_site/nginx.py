"""The configuration by which nginx serves a site as its hosting rules say."""

from __future__ import annotations

from index_site.hosting import API_JSON, CONTENT_TYPES, FILES, IMMUTABLE, REPORTS, REVALIDATED

_DIGIT = "[0-9]"
_DATE = "-".join(_DIGIT * count for count in (4, 2, 2))


def nginx_config(root: str, *, listen: str, hidden: str) -> str:
    """Return a server, and a map that it needs, for a file that nginx includes in its ``http`` block.

    Args:
        root: the folder of the site.
        listen: the address and port, such as ``127.0.0.1:8080``, or a port.
        hidden: the folder inside the site that nobody may read.
    """
    types = "".join(f'        "{kind}" {suffix[1:]};\n' for suffix, kind in CONTENT_TYPES.items())
    quoted = root.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f"""\
map $uri $site_caching {{
    default "{REVALIDATED}";
    ~^/({FILES}|{REPORTS}|{_DATE})/ "{IMMUTABLE}";
}}

server {{
    listen {listen};
    root "{quoted}";
    index index.html;
    absolute_redirect off;
    gzip on;
    gzip_types application/json {API_JSON};
    add_header Cache-Control $site_caching;
    types {{
{types}    }}
    default_type application/octet-stream;

    location ~ ^/[^/]+/simple/v1\\+json/ {{
        index index.json;
        types {{ }}
        default_type {API_JSON};
    }}
    location ^~ /{hidden} {{
        return 404;
    }}
}}
"""
