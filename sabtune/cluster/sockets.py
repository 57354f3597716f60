"""The limit for the path of the folder where Ray puts its sockets."""

SOCKET_PATH_BYTES, RAY_PATH_BYTES = 107, 66
"""The maximum bytes in the path of a socket, and the bytes that Ray appends to its folder."""
