// Every text that is seen in elements of a selector: its beginning, its size in px, and its contrast with what is
// behind it (WCAG 2: 1 to 21).
(selector) => {
  const numbers = (colour) => {
    const [r, g, b, alpha = 1] = colour.match(/[\d.]+/g).map(Number)
    return [r, g, b, alpha]
  }
  const over = ([r, g, b, alpha], paper) => [r, g, b].map((c, i) => alpha * c + (1 - alpha) * paper[i])
  const paperOf = (e) =>
    e ? over(numbers(getComputedStyle(e).backgroundColor), paperOf(e.parentElement)) : [255, 255, 255]
  const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  const luminance = (rgb) => rgb.reduce((sum, c, i) => sum + linear(c / 255) * [0.2126, 0.7152, 0.0722][i], 0)
  const hasText = (e) => [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())
  const seen = (e) => hasText(e) && e.checkVisibility() && !e.closest("script, style, option")

  return [...document.querySelectorAll(selector)].filter(seen).map((e) => {
    const style = getComputedStyle(e)
    const paper = paperOf(e)
    const ink = over(numbers(e.closest("svg") ? style.fill : style.color), paper)
    const [dark, light] = [luminance(ink), luminance(paper)].sort((a, b) => a - b)
    return [e.textContent.trim().slice(0, 40), parseFloat(style.fontSize), (light + 0.05) / (dark + 0.05)]
  })
}
