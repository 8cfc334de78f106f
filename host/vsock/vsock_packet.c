#include "host/vsock/vsock_packet.h"

#include <assert.h>

void vsock_packet_parse(const uint8_t bytes[VSOCK_HEADER_SIZE], struct vsock_packet *ret)
{
    struct bg_reader in = bg_reader_init(bytes, VSOCK_HEADER_SIZE);
    ret->src_cid = bg_reader_u64le(&in);
    ret->dst_cid = bg_reader_u64le(&in);
    ret->src_port = bg_reader_u32le(&in);
    ret->dst_port = bg_reader_u32le(&in);
    ret->size = bg_reader_u32le(&in);
    ret->type = bg_reader_u16le(&in);
    ret->op = bg_reader_u16le(&in);
    ret->flags = bg_reader_u32le(&in);
    ret->buf_alloc = bg_reader_u32le(&in);
    ret->fwd_cnt = bg_reader_u32le(&in);
    assert(bg_reader_end(&in)); /* the size is ours */
}

void vsock_packet_emit(const struct vsock_packet *packet, uint8_t out[VSOCK_HEADER_SIZE])
{
    struct bg_writer w = bg_writer_init(out, VSOCK_HEADER_SIZE);
    bg_writer_u64le(&w, packet->src_cid);
    bg_writer_u64le(&w, packet->dst_cid);
    bg_writer_u32le(&w, packet->src_port);
    bg_writer_u32le(&w, packet->dst_port);
    bg_writer_u32le(&w, packet->size);
    bg_writer_u16le(&w, packet->type);
    bg_writer_u16le(&w, packet->op);
    bg_writer_u32le(&w, packet->flags);
    bg_writer_u32le(&w, packet->buf_alloc);
    bg_writer_u32le(&w, packet->fwd_cnt);
    assert(bg_writer_ok(&w) && w.used == VSOCK_HEADER_SIZE);
}
