"""How the chat page looks: Gradio's own theme with the system's fonts, in the reader's light or dark."""

from gradio.themes import Base, Default, Font

FONT = ("system-ui", "sans-serif")
FONT_MONO = ("ui-monospace", "monospace")

# A picture's buttons are Gradio's for sharing it on a public site.
CSS = """
.gradio-container { max-width: 76rem !important; }
#head h1 { font-size: 1.5rem; font-weight: 600; margin: 0; }
#head p, #speed p, #looked p, #looked figcaption { font-size: 0.85rem; margin: 0.25rem 0 0; }
#looked figure { margin: 0.75rem 0 0; }
#looked img { width: 100%; border-radius: 0.5rem; }
#chat .message img { min-width: 7rem; max-height: 14rem; object-fit: contain; }
#chat .message-row:has(.component-wrap) + .message-buttons { display: none; }
#chat .example-image-container, #chat .example-image { width: 3.5rem; height: 3.5rem; }
@media (max-width: 40rem) {
  .gradio-container { padding: 0.5rem !important; }
  #chat { height: 50vh !important; }
}
"""

# What a screen reader needs and Gradio (6.31) leaves out: its examples and thumbnails are halves of lists,
# the buttons that enlarge a picture have no name, and a message's heading is a button with a button in it.
JS = """
() => {
  const mend = () => {
    for (const list of document.querySelectorAll('.examples[role="list"]')) {
      list.setAttribute('role', 'group');
      list.setAttribute('aria-label', 'Examples');
    }
    for (const item of document.querySelectorAll('.thumbnail-wrapper[role="listitem"]'))
      item.setAttribute('role', 'group');
    for (const heading of document.querySelectorAll('.toast-header[role="button"]')) {
      heading.removeAttribute('role');
      heading.removeAttribute('tabindex');
    }
    for (const image of document.querySelectorAll('#chat .image-frame img[alt=""]'))
      image.alt = 'Picture ' + decodeURIComponent(image.src.split('/').pop());
  };
  mend();
  new MutationObserver(mend).observe(document.body, {childList: true, subtree: true});
}
"""


def theme() -> Base:
    """Nothing of it is fetched from elsewhere; its greys are dark enough to be read (WCAG 2, AA)."""
    fonts, fonts_mono = ([Font(name) for name in names] for names in (FONT, FONT_MONO))
    return Default(primary_hue="teal", font=fonts, font_mono=fonts_mono).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
