//! What Keyturn is developed and shown on.
