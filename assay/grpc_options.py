"""Every gRPC channel option that client and server set, each with its reason.

The two sides must agree (a client that pings oftener than the server allows is cut off), so they stand side by side.
"""

MESSAGE_SLACK_BYTES = 1024 * 1024  # headers, prompts and field tags around the image bytes that limits count
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
MAX_CONNECTIONS = 4096  # of all clients; each has one to a replica
MAX_CALLS = 10_000  # under way on a connection: more than a queue holds, for what is beyond is refused, and tried again

Options = list[tuple[str, int | str]]


def server_options(max_request_bytes: int) -> Options:
    """Options of a server whose calls hold at most `max_request_bytes` of image bytes."""
    return [
        # The default of 4 MiB is less than six raw 512 x 512 images.
        ("grpc.max_receive_message_length", max_request_bytes + MESSAGE_SLACK_BYTES),
        ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        # By default a stranger can open any number of both.
        ("grpc.max_concurrent_streams", MAX_CALLS),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        # Two processes on one port would split connections, not calls; a second start must fail instead.
        ("grpc.so_reuseport", 0),
        # The clients' pings come every 30 s; the default tolerance of one in 5 min would cut them off.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # On a machine that is short of processors pings arrive in clusters; that must not cut a client off either.
        ("grpc.http2.max_ping_strikes", 0),
        # Find clients whose machine has vanished, and free what they hold.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients look up names only when they reconnect, so make them, now and then, to find new replicas.
        ("grpc.max_connection_age_ms", 600_000),
        ("grpc.max_connection_age_grace_ms", 600_000),
    ]


def client_options(authority: str | None = None) -> Options:
    """Options of a channel to one replica. `authority`: NAME:PORT it was found by; its certificate must be for NAME."""
    named: Options = [] if authority is None else [("grpc.default_authority", authority)]
    return [
        *named,
        # The size of a request is for the server to judge: it says which limit was exceeded.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        # Our own retries change the replica. gRPC's would repeat on the same one, and do nothing over 256 KiB.
        ("grpc.enable_retries", 0),
        # A service that was restarted must be found again in about a second, not after the default of up to 120 s.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # A name whose one address has changed is looked up again at once, not after the default of 30 s.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # The proxies of the environment lead out; services are near, and their tokens are no business of a proxy's.
        ("grpc.enable_http_proxy", 0),
        # Notice in 40 s that a replica hangs or its machine has vanished; off by default.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients of one process must not share a connection, nor the back-off of a broken one.
        ("grpc.use_local_subchannel_pool", 1),
    ]
