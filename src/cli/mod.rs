//! One file per subcommand: each parses, wires, calls the library, prints.
