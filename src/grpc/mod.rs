//! How tokens leave: gRPC.
