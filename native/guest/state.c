/*
 * The guest's device state: where its vCPU stands, and what its RAM's bytes follow from.
 *
 * Eleven 64-bit words in this machine's order, the last a check word over the
 * others: a state that was cut, changed or meant for another RAM is refused
 * before anything of the guest is touched.
 */
#include "guest.h"

#define STATE_MAGIC 0x6d66646775657374u /* "mfdguest" */
#define STATE_VERSION 1u

static uint64_t state_check(const struct saved_state *state) {
  const uint64_t *words = (const uint64_t *)state;
  uint64_t check = STATE_MAGIC;
  for (size_t i = 0; i < sizeof *state / 8 - 1; i++)
    check = guest_mix(check ^ words[i]);
  return check;
}

bool guest_save(struct guest *guest, struct saved_state *state) {
  struct vcpu *vcpu = &guest->vcpu;
  vcpu_hold(vcpu);
  bool running = vcpu->running;
  *state = (struct saved_state){
      .magic = STATE_MAGIC,
      .version = STATE_VERSION,
      .ram_bytes = guest->ram.length,
      .working_pages = guest->ram.working_pages,
      .seed = guest->ram.seed,
      .rate = vcpu->rate,
      .sweep = vcpu->sweep,
      .next = vcpu->next,
      .written = vcpu->written,
      .paused_at = vcpu->paused_at,
  };
  vcpu_release(vcpu);
  state->check = state_check(state);
  return !running;
}

const char *guest_load(struct guest *guest, const struct saved_state *state) {
  if (state->magic != STATE_MAGIC || state->check != state_check(state))
    return "not a guest's state";
  if (state->version != STATE_VERSION)
    return "a state of another version";
  if (state->ram_bytes != guest->ram.length)
    return "the state belongs to another size of RAM";
  if (state->sweep == 0 || state->next >= state->working_pages || state->rate > GUEST_RATE_MAX)
    return "the state contradicts itself";
  if (!guest_ram_layout(&guest->ram, state->working_pages, state->seed))
    return "the working set does not fit the RAM";
  struct vcpu *vcpu = &guest->vcpu;
  vcpu_hold(vcpu);
  vcpu->rate = state->rate;
  vcpu->sweep = state->sweep;
  vcpu->next = state->next;
  vcpu->written = state->written;
  vcpu->paused_at = state->paused_at;
  guest->loaded = true;
  vcpu_release(vcpu);
  return NULL;
}
