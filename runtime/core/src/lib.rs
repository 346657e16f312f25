//! The sans-IO heart of the runtime: execution, device interface, timing emulator.
