//! Against the real SDK, over the wire.
